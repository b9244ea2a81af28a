#!/bin/sh
# Runs on the host with the image's tree as its argument, before the tree is packed.
set -eu
tree=$1
for folder in bin sbin lib usr/bin usr/sbin etc dev proc sys run mnt; do mkdir -p "$tree/$folder"; done
mkdir -p -m 1777 "$tree/tmp" "$tree/var/tmp"
mkdir -p -m 0700 "$tree/root"
chroot "$tree" /bin/busybox --install -s
# busybox's own init is none that a sandbox could boot with.
rm -f "$tree/sbin/init" "$tree/linuxrc" "$tree/etc/resolv.conf" "$tree/etc/hostname"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$tree/etc/passwd"
printf 'root:x:0:\n' >"$tree/etc/group"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
: >"$tree/etc/machine-id"
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/*
