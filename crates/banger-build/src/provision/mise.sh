tool @jdxcode/mise 2026.9.15 mise
shims=/root/.local/share/mise/shims
mkdir -p /etc/profile.d
cat >/etc/profile.d/mise.sh <<'EOF'
if [ -n "${BASH_VERSION:-}" ]; then eval "$(mise activate bash)"; fi
EOF
if [ -e /etc/bash.bashrc ]; then echo 'eval "$(mise activate bash)"' >>/etc/bash.bashrc; fi
# ssh and exec shells are neither login shells nor interactive ones.
touch /etc/environment
grep -v '^PATH=' /etc/environment >/etc/environment.next || true
echo "PATH=$shims:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" >>/etc/environment.next
mv /etc/environment.next /etc/environment
