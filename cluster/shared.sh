#!/bin/sh
# One home for all nodes of a cloud cluster: the head's ~/.symcere, over NFS, at the same path on every worker. Sweeps
# need it (their trials read corpora and write outcomes there); `ray down` keeps the head's disk and with it the home.
#
#   shared.sh head            shares it with private addresses; the cluster's firewall keeps others out
#   shared.sh worker HEAD     mounts the head's
#
# A cluster with a shared file system of its own (EFS, Filestore, a lab's NFS) needs none of this: mount that at
# ~/.symcere, or set SYMCERE_HOME to where it is.
set -eu
home="$HOME/.symcere"
mkdir -p "$home"
case "${1:-}" in
head)
    command -v exportfs >/dev/null || sudo apt-get install -yq nfs-kernel-server
    for network in 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16; do
        echo "$home $network(rw,async,no_subtree_check)"
    done | sudo tee /etc/exports.d/symcere.exports >/dev/null
    sudo exportfs -ra
    ;;
worker)
    command -v mount.nfs4 >/dev/null || sudo apt-get install -yq nfs-common
    mountpoint -q "$home" || sudo mount -t nfs4 -o noatime,hard "$2:$home" "$home"
    ;;
*)
    sed -n '2,7p' "$0" >&2
    exit 2
    ;;
esac
