# TAR TREE OUT ROOT_MIB SEED_MIB: unpacks the tree and makes rootfs.ext4 and work-seed.ext4 in OUT.
tar=$1 tree=$2 out=$3 root_mib=$4 seed_mib=$5
mkdir "$tree"
# Device nodes cannot be made in a user namespace; the guest's /dev is the kernel's.
tar -C "$tree" --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -xpf "$tar"
common='-q -t ext4 -F -m 0 -b 4096'
lazy='lazy_itable_init=1,lazy_journal_init=1,nodiscard'
mke2fs $common -L root -J size=64 -E "$lazy" -d "$tree" "$out/rootfs.ext4" "${root_mib}M"
mke2fs $common -L work -J size=16 -E "$lazy" -d "$tree/root" "$out/work-seed.ext4" "${seed_mib}M"
chmod 0644 "$out/rootfs.ext4" "$out/work-seed.ext4"
