# Commands in a running guest against ssh, and its agent against bytes over vsock. Sourced by scripts/bench, with its
# functions.

banger vm create --name bench >/dev/null 2>&1
target=$(banger vm show bench -o json | grep -o '"address": "[^"]*"' | cut -d'"' -f4)
opts=(-F none -i "$XDG_CONFIG_HOME/banger/ssh/id_ed25519" -o "UserKnownHostsFile=$state/known_hosts"
  -o HostKeyAlias=bench.vm -o "ControlPath=$work/ssh" -o LogLevel=ERROR)
ssh "${opts[@]}" -o ControlMaster=yes -fN "root@$target" </dev/null >/dev/null 2>&1
by_exec() { banger vm exec bench -- true; }
by_ssh() { ssh "${opts[@]}" "root@$target" true; }
pair "vm exec -- true / ssh -- true over an open master" 0.45 by_exec by_ssh
ssh "${opts[@]}" -O exit "root@$target" 2>/dev/null || true

gcc -static -O2 -o "$work/echo" scripts/bench.d/echo.c
banger vm exec -i bench -- sh -c 'cat >/run/echo && chmod +x /run/echo' <"$work/echo"
banger vm exec bench -- sh -c 'setsid /run/echo 7000 >/dev/null 2>&1 </dev/null &'
id=$(banger vm show bench -o json | grep -o '"id": "[^"]*"' | head -1 | cut -d'"' -f4)
socket=$state/vms/$id/run/v
read -r ping echo < <(cargo run --quiet --release --locked -p banger-e2e --bin round-trip -- "$socket" 7000 500)
ratio "agent ping / raw vsock echo (500 rounds each)" "$ping" "$echo" us 2
banger vm delete bench >/dev/null 2>&1
