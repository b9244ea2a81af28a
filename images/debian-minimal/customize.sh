#!/bin/sh
# Runs on the host with the image's tree as its argument, before the tree is packed.
set -eu
tree=$1
mkdir -p "$tree/bin" "$tree/sbin" "$tree/usr/bin" "$tree/usr/sbin" "$tree/etc" "$tree/root" "$tree/dev" \
  "$tree/proc" "$tree/sys" "$tree/run" "$tree/tmp" "$tree/var/tmp" "$tree/lib"
chmod 1777 "$tree/tmp" "$tree/var/tmp"
chmod 0700 "$tree/root"
chroot "$tree" /bin/busybox --install -s
# busybox's own init is none that a sandbox could boot with.
rm -f "$tree/sbin/init" "$tree/linuxrc"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$tree/etc/passwd"
printf 'root:x:0:\n' >"$tree/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
: >"$tree/etc/machine-id"
rm -rf "$tree/usr/share" "$tree/var/lib" "$tree/var/cache" "$tree/var/log" "$tree/etc/resolv.conf" \
  "$tree/etc/hostname" "$tree/etc/apt"
