#!/bin/sh
# The image's own package manager. Nothing of it is guessed: what is not there is refused.
set -eu

has() { command -v "$1" >/dev/null 2>&1; }
fail() { echo "banger: $*" >&2; exit 1; }

manager() {
  for name in apt-get apk dnf microdnf zypper pacman xbps-install; do
    if has "$name"; then echo "$name"; return; fi
  done
  fail "this image has no package manager (looked for apt-get, apk, dnf, microdnf, zypper, pacman, xbps-install)"
}

# A list that was fetched once in this script is not fetched again.
fetched=
fetch() {
  [ -z "$fetched" ] || return 0
  case $found in
    apt-get) apt-get update ;;
    zypper) zypper --non-interactive refresh ;;
    pacman) pacman -Sy --noconfirm ;;
    xbps-install) xbps-install -S ;;
  esac
  fetched=1
}

install() {
  found=$(manager) || exit 1
  fetch
  case $found in
    apt-get) apt-get install -y --no-install-recommends "$@" ;;
    apk) apk add "$@" ;;
    dnf) dnf install -y "$@" ;;
    microdnf) microdnf install -y "$@" ;;
    zypper) zypper --non-interactive install "$@" ;;
    pacman) pacman -S --noconfirm --needed "$@" ;;
    xbps-install) xbps-install -y "$@" ;;
  esac
}

# What is only of use while installing.
clean() {
  found=$(manager 2>/dev/null) || return 0
  case $found in
    apt-get) apt-get clean; rm -rf /var/lib/apt/lists/* ;;
    apk) rm -rf /var/cache/apk/* ;;
    dnf) dnf clean all ;;
    microdnf) microdnf clean all ;;
    zypper) zypper clean --all ;;
    pacman) pacman -Scc --noconfirm ;;
    xbps-install) xbps-remove -O ;;
  esac
}
