#!/bin/sh
# An MLflow server for a team, by plain commands: PostgreSQL, object storage for files, a password.
#
#   server.sh database     once, on a machine with Debian's or Ubuntu's postgresql: makes the database (asks for sudo)
#   server.sh start        starts the server in the background
#   server.sh stop
#
# Settings, from the environment:
#   MLFLOW_DATABASE    postgresql://…; by default the database `mlflow` of this machine through its socket: no password
#   MLFLOW_ARTIFACTS   s3://bucket/mlflow, gs://…, or a folder (default ~/.symcere/artifacts)
#   MLFLOW_HOST        address to listen on; by default 127.0.0.1, reached with `ssh -L 5000:127.0.0.1:5000 HOST`
#   MLFLOW_PORT        5000
#   MLFLOW_NAMES       host names, with commas between, under which clients may call it beside localhost and private
#                      addresses (MLflow refuses others)
#   MLFLOW_WORKERS     processes that answer (2)
#
# User and password are those of ~/.mlflow/credentials (cluster/secrets.sh makes it; clients have the same file).
set -eu
umask 077

state="$HOME/.mlflow/server"
database="${MLFLOW_DATABASE:-postgresql:///mlflow}"
artifacts="${MLFLOW_ARTIFACTS:-$HOME/.symcere/artifacts}"
host="${MLFLOW_HOST:-127.0.0.1}"
port="${MLFLOW_PORT:-5000}"
pid="$state/server.pid"

value() { sed -n "s/^ *mlflow_tracking_$1 *= *//p" ~/.mlflow/credentials; }

case "${1:-}" in
database)
    sudo -u postgres createuser "$(id -un)" 2>/dev/null || true
    sudo -u postgres createdb --owner "$(id -un)" mlflow 2>/dev/null || true
    ;;
start)
    if [ -s "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; then
        echo "The MLflow server runs already (pid $(cat "$pid"))."
        exit 0
    fi
    [ -s ~/.mlflow/credentials ] || { echo "~/.mlflow/credentials is missing: run cluster/secrets.sh" >&2; exit 1; }
    mkdir -p "$state"
    # New users see nothing until they are allowed to.
    cat > "$state/auth.ini" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $(printf %s "$database" | sed 's/%/%%/g')
admin_username = $(value username)
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI
    [ -s "$state/key" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$state/key"
    # Secrets go by environment and by files that only this user can read: a command line shows in `ps`.
    MLFLOW_AUTH_CONFIG_PATH="$state/auth.ini" MLFLOW_AUTH_ADMIN_PASSWORD="$(value password)" \
    MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat "$state/key")" MLFLOW_BACKEND_STORE_URI="$database" \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
    nohup mlflow server --app-name basic-auth --host "$host" --port "$port" --workers "${MLFLOW_WORKERS:-2}" \
        --serve-artifacts --artifacts-destination "$artifacts" \
        --allowed-hosts "localhost,localhost:*,127.0.0.1,127.0.0.1:*,10.*,172.*,192.168.*${MLFLOW_NAMES:+,$MLFLOW_NAMES}" \
        > "$state/server.log" 2>&1 &
    echo $! > "$pid"
    for _ in $(seq 90); do
        if python -c "import sys, urllib.request as u; u.urlopen('http://$host:$port/health', timeout=2)" 2>/dev/null; then
            echo "The MLflow server answers at http://$host:$port; its log is $state/server.log."
            exit 0
        fi
        kill -0 "$(cat "$pid")" 2>/dev/null || break
        sleep 1
    done
    echo "The MLflow server did not start; the end of $state/server.log:" >&2
    tail -n 20 "$state/server.log" >&2
    exit 1
    ;;
stop)
    if [ -s "$pid" ]; then
        kill "$(cat "$pid")" 2>/dev/null || true
        rm -f "$pid"
    fi
    ;;
*)
    sed -n '2,7p' "$0" >&2
    exit 2
    ;;
esac
