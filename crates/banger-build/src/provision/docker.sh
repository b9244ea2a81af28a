found=$(manager) || exit 1
case $found in
  apt-get)
    install docker.io iptables ca-certificates
    # The plugin where there is one, else the older program.
    apt-get install -y --no-install-recommends docker-compose || true
    ;;
  apk) install docker docker-cli-compose iptables ca-certificates ;;
  dnf) install moby-engine docker-compose iptables-nft ;;
  *) install docker docker-compose iptables ;;
esac
# Docker answers on its socket and starts with the first question: a boot pays nothing.
if has systemctl; then
  systemctl disable docker.service containerd.service 2>/dev/null || true
  systemctl enable docker.socket
elif has rc-update; then
  rc-update add docker default
fi
