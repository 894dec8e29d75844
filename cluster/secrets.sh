#!/bin/sh
# The two secrets of a cluster, made once on your machine and copied to the nodes by `ray up`, through SSH:
#   ~/.ray/auth_token       without it nobody may submit jobs, see the dashboard or join the cluster
#   ~/.mlflow/credentials   user and password of the MLflow server, which MLflow's client reads by itself
# What is there already is kept. Nothing is printed; both files are readable by you alone.
set -eu
umask 077

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

mkdir -p ~/.ray ~/.mlflow
[ -s ~/.ray/auth_token ] || random > ~/.ray/auth_token
[ -s ~/.mlflow/credentials ] || printf '[mlflow]\nmlflow_tracking_username = symcere\nmlflow_tracking_password = %s\n' \
    "$(random)" > ~/.mlflow/credentials
chmod 600 ~/.ray/auth_token ~/.mlflow/credentials
echo "Secrets are in ~/.ray/auth_token and ~/.mlflow/credentials."
