#!/bin/sh
# Runs on the host with the image's tree as its argument, before the tree is packed.
set -eu
tree=$1
in_tree() { chroot "$tree" "$@"; }

# Units that cost boot time and give a sandbox nothing.
in_tree systemctl mask --quiet \
  apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service \
  dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-firstboot.service systemd-timesyncd.service systemd-networkd.service \
  systemd-pstore.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
  systemd-machine-id-commit.service ldconfig.service systemd-hwdb-update.service \
  getty@tty1.service serial-getty@ttyS0.service getty-static.service \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  systemd-udev-settle.service proc-sys-fs-binfmt_misc.automount
# Docker loads its own profile when it starts; all others cost boot time.
in_tree systemctl mask --quiet apparmor.service
# Docker answers on its socket and starts with the first question.
in_tree systemctl disable --quiet docker.service containerd.service
in_tree systemctl enable --quiet docker.socket ssh.service
in_tree systemctl set-default --quiet multi-user.target

# `docker compose` as well as Debian's `docker-compose`: a plugin that hands its arguments on.
plugins=$tree/usr/libexec/docker/cli-plugins
mkdir -p "$plugins"
cat >"$plugins/docker-compose" <<'EOF'
#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
  echo '{"SchemaVersion":"0.1.0","Vendor":"Debian","ShortDescription":"Docker Compose"}'
  exit
fi
seen=
for word; do
  shift
  if [ -z "$seen" ] && [ "$word" = compose ]; then seen=1; continue; fi
  set -- "$@" "$word"
done
exec docker-compose "$@"
EOF
chmod 0755 "$plugins/docker-compose"

# The host key is given to each VM by its host; nobody logs in with a password.
rm -f "$tree"/etc/ssh/ssh_host_*
cat >"$tree/etc/ssh/sshd_config.d/banger.conf" <<'EOF'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
EOF

mkdir -p "$tree/etc/systemd/system.conf.d" "$tree/etc/systemd/journald.conf.d"
printf '[Manager]\nDefaultTimeoutStopSec=15s\n' >"$tree/etc/systemd/system.conf.d/banger.conf"
printf '[Journal]\nSystemMaxUse=64M\nForwardToConsole=no\n' >"$tree/etc/systemd/journald.conf.d/banger.conf"
printf 'LANG=C.UTF-8\n' >"$tree/etc/default/locale"
printf 'LANG=C.UTF-8\n' >"$tree/etc/environment"
: >"$tree/etc/fstab"
cp -r "$tree/etc/skel/." "$tree/root/"

# Nothing of the build host.
: >"$tree/etc/machine-id"
rm -f "$tree/var/lib/dbus/machine-id" "$tree/etc/resolv.conf" "$tree/etc/hostname"
ln -s /etc/machine-id "$tree/var/lib/dbus/machine-id"
printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
# Not /tmp: mmdebstrap keeps the configuration of its apt there, and removes it itself.
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/log/*.log "$tree"/var/log/apt \
  "$tree"/var/cache/debconf/*-old "$tree"/root/.bash_history "$tree"/root/.ssh
mkdir -p "$tree/var/cache/apt/archives/partial" "$tree/var/lib/apt/lists/partial"
