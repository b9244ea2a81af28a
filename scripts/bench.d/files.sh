# Files and workspaces against scp and tar over ssh, in one guest. Sourced by scripts/bench, with its
# functions; a GiB by scp takes minutes under emulation, so that pair is taken LARGE_PAIRS times.

banger vm create --name files >/dev/null 2>&1
target=$(banger vm show files -o json | grep -o '"address": "[^"]*"' | cut -d'"' -f4)
opts=(-F none -i "$XDG_CONFIG_HOME/banger/ssh/id_ed25519" -o "UserKnownHostsFile=$state/known_hosts"
  -o HostKeyAlias=files.vm -o "ControlPath=$work/ssh-files" -o LogLevel=ERROR)
ssh "${opts[@]}" -o ControlMaster=yes -fN "root@$target" </dev/null >/dev/null 2>&1

head -c 1G /dev/urandom >"$work/large"
by_cp() { banger vm cp "$work/large" files:; }
by_scp() { scp -q "${opts[@]}" "$work/large" "root@$target:large"; }
large_gone() { banger vm exec files -- rm -f /root/large; }
all_pairs=$pairs pairs=${LARGE_PAIRS:-1}
AFTER_A=large_gone AFTER_B=large_gone pair "vm cp of 1 GiB / scp over an open master" 0.5 by_cp by_scp
pairs=$all_pairs
rm "$work/large"

# 10,000 files, 100 MB of text that compresses as base64 does; the reference sends the same folder, .git and all.
commit() { git -C "$1" -c user.name=bench -c user.email=bench@localhost "${@:2}"; }
repo=$work/repo
mkdir -p "$repo"/{00..99}
head -c 75600000 /dev/urandom | base64 -w 63 | split -b 10240 -a 4 --numeric-suffixes - "$repo/f"
for d in {00..99}; do mv "$repo/f$d"* "$repo/$d/"; done
git init -q "$repo" && commit "$repo" add -A && commit "$repo" commit -qm bench
by_prepare() { banger vm workspace prepare files "$repo"; }
by_tar() { tar c -C "$repo" . | ssh "${opts[@]}" "root@$target" 'mkdir /root/tar && tar x -C /root/tar'; }
repo_gone() { banger vm exec files -- rm -rf /root/repo; }
tar_gone() { banger vm exec files -- rm -rf /root/tar; }
AFTER_A=repo_gone AFTER_B=tar_gone pair "workspace prepare, 10,000 files / tar | ssh tar x" 0.7 by_prepare by_tar
first=$(median <"$work/a")
by_prepare >/dev/null 2>&1
: >"$work/again"
for ((i = 0; i < pairs; i++)); do
  for n in {0..9}; do echo "touched $i" >>"$repo/0$n/f0${n}00"; done
  sample by_prepare : "$work/again"
done
ratio "workspace prepare after 10 files / the first" "$(median <"$work/again")" "$first" ms 0.1
ssh "${opts[@]}" -O exit "root@$target" 2>/dev/null || true

run_large() { banger vm run --rm "$repo" -- true 2>/dev/null; }
run_and_send() { run && by_prepare >/dev/null 2>&1; }
repo_gone
AFTER_B=repo_gone pair "vm run --rm ./repo (10,000 files) / run, and sent" 0.85 run_large run_and_send
banger vm delete --force files >/dev/null 2>&1

small=$work/small
mkdir -p "$small"
head -c 1512000 /dev/urandom | base64 -w 63 | split -b 10240 -a 3 --numeric-suffixes - "$small/f"
git init -q "$small" && commit "$small" add -A && commit "$small" commit -qm bench
run_small() { banger vm run --rm "$small" -- true 2>/dev/null; }
pair "vm run --rm ./repo (200 files) -- true / without" 1.15 run_small run
