# What every node of a cluster needs in its environment; ~/.bashrc reads it (see setup_commands of the cluster files).
# Ray's commands come through SSH with an interactive login shell, and everything Ray starts inherits this.

export PATH="$HOME/symcere/.venv/bin:$PATH"
export SYMCERE_HOME="${SYMCERE_HOME:-$HOME/.symcere}"   # corpora, embeddings and runs of this node

# Nobody without the token of ~/.ray/auth_token (cluster/secrets.sh makes it, `ray up` copies it) may use the cluster.
export RAY_AUTH_MODE=token

# Workers talk to each other over the interface that leads out. Left alone, gloo takes the one that the host name
# resolves to, which is often loopback.
interface=$(ip -o -4 route show to default 2>/dev/null | awk '{print $5; exit}')
interface=${interface:-$(ip -o -4 addr show scope global 2>/dev/null | awk '{print $2; exit}')}
if [ -n "$interface" ]; then
    export GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-$interface}" NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-$interface}"
fi
unset interface

export MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0
