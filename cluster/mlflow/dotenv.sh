#!/bin/sh
# Makes cluster/mlflow/.env, which compose.yaml reads: random secrets, and the user and password of
# ~/.mlflow/credentials (cluster/secrets.sh makes that; clients read the same file). What is there already is kept.
set -eu
umask 077
file="$(cd "$(dirname "$0")" && pwd)/.env"
[ -s "$file" ] && exit 0
value() { sed -n "s/^ *mlflow_tracking_$1 *= *//p" ~/.mlflow/credentials; }
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
[ -s ~/.mlflow/credentials ] || { echo "~/.mlflow/credentials is missing: run cluster/secrets.sh" >&2; exit 1; }
cat > "$file" <<ENV
MLFLOW_USER=$(value username)
MLFLOW_PASSWORD=$(value password)
MLFLOW_KEY=$(random)
POSTGRES_PASSWORD=$(random)
S3_SECRET=$(random)
ENV
echo "Secrets are in $file."
