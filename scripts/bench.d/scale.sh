# What a thousand VMs cost: the daemon with as many in its database, and the engine on a modelled host. Sourced by
# scripts/bench, with its functions.

banger daemon status -o json >"$work/status"
pid=$(grep -o '"pid": [0-9]*' "$work/status" | head -1 | tr -dc 0-9)
switches() { # each thread's count; those that ended in between do not count
  awk 'FNR == 1 { split(FILENAME, part, "/") } /ctxt/ { n[part[5]] += $2 } END { for (t in n) print t, n[t] }' /proc/"$pid"/task/*/status
}
sleep 15 # threads of the pool that did the work above end
switches >"$work/before"; sleep 10; switches >"$work/after"
awk -v rss="$(awk '/VmRSS/ { print $2 }' /proc/"$pid"/status)" \
  'NR == FNR { before[$1] = $2; next } { n += $2 - before[$1] }
   END { printf "daemon idle: %.1f MiB resident, %.1f wake-ups per second\n", rss / 1024, n / 10 }' "$work/before" "$work/after"

for i in {1..1000}; do banger vm create --no-start --image debian-minimal --name "stored-$i" >/dev/null 2>&1; done
list() { banger vm list; }
version() { banger version; }
[ "$(list | grep -c stored-)" -eq 1000 ]
pair "vm list with 1,000 stored VMs / banger version" "+25 ms" list version
first_list() { banger daemon stop >/dev/null; ms list >>"$work/first"; }
for _ in {1..5}; do first_list; done
banger daemon status -o json >"$work/status"
pid=$(grep -o '"pid": [0-9]*' "$work/status" | head -1 | tr -dc 0-9)
awk -v first="$(median <"$work/first")" '/VmRSS/ { printf "with 1,000 stored VMs: first `vm list` with a daemon start and reconcile %.0f ms (under 1000); %.1f MiB resident (under 60)\n", first, $2 / 1024 }' "/proc/$pid/status"
banger vm delete stored-{1..1000} >/dev/null 2>&1

echo "the engine on a modelled host:"
cargo bench --quiet --locked -p banger-engine --bench scale
