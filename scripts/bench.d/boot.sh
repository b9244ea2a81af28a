# Boots against the same machine without anything in it, and against debvm. Sourced by scripts/bench, with its functions.

# The floor: the same QEMU, machine, sizes, kernel and command line; a static init that prints one line.
mkdir -p "$work/root/dev"
gcc -static -O2 -o "$work/root/init" scripts/bench.d/floor.c
mknod "$work/root/dev/console" c 5 1 2>/dev/null || true
(cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/init.cpio"
cmdline=$(banger vm run --rm -- cat /proc/cmdline 2>"$work/stages")
read -r vcpu memory < <(sed -n 's/.*spec: \([0-9]*\) vCPU · \([0-9]*\) MiB.*/\1 \2/p' "$work/stages")
accel=tcg cpu=max
[ "${cmdline/tsc_early_khz/}" != "$cmdline" ] || accel=kvm cpu=host
floor() {
  qemu-system-x86_64 -M "microvm,accel=$accel,acpi=on,rtc=on,pcie=off,isa-serial=on,x-option-roms=off" \
    -cpu $cpu -m "${memory}M" -smp "$vcpu" -nodefaults -no-user-config -no-reboot -display none -serial stdio \
    -kernel "$kernel/vmlinux" -initrd "$work/init.cpio" -append "$cmdline" </dev/null | grep -q 'floor: here'
}
pair "vm run --rm -- true / bare floor" 1.8 run floor

answering() { banger vm create --name answering --wait reachable 2>/dev/null; }
deleted() { banger vm delete answering >/dev/null 2>&1; }
AFTER_A=deleted pair "vm create until the agent answers / bare floor" 1.3 answering floor

port=8022
by_debvm() {
  debvm-run -s $port -i "$dir/debvm.ext4" -- -snapshot -pidfile "$work/debvm.pid" \
    -machine accel=$accel -cpu $cpu </dev/null >"$work/debvm.log" 2>&1 &
  debvm=$!
  local deadline=$((SECONDS + 90))
  while ((SECONDS < deadline)); do
    if timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port && read -r line <&3 && [[ \$line == SSH-* ]]" 2>/dev/null; then return; fi
    sleep 0.1
  done
  return 1
}
debvm_gone() { kill "$(cat "$work/debvm.pid")"; wait "$debvm" 2>/dev/null || true; debvm=; }
AFTER_B=debvm_gone pair "vm run --rm -- true / debvm-run until ssh answers" 0.3 run by_debvm
