#!/bin/sh
# What ray_cluster.yaml expects to find on AWS, made once; running it again mends what is missing.
#
#   sh cluster/aws.sh MY-BUCKET [REGION]
#
# - the bucket, closed to the public, for data, checkpoints and MLflow's files
# - the role and instance profile `symcere-cluster`: start and end instances of this cluster, use this bucket
#   (Ray also has to tag instances, and the role may tag any)
# - the security group `symcere-cluster` in the default VPC: SSH from this machine's address, and the nodes among
#   themselves. After a change of your address run this again.
# - the cluster's secrets (cluster/secrets.sh)
# and it writes the bucket's name, the region (us-west-2 unless you name another, each time) and its zones into
# ray_cluster.yaml.
set -eu
bucket="${1:?usage: sh cluster/aws.sh MY-BUCKET [REGION]}"
region="${2:-us-west-2}"
name=symcere-cluster
here=$(cd "$(dirname "$0")" && pwd)
aws() { command ${AWS:-aws} --region "$region" --output text "$@"; }

aws s3api head-bucket --bucket "$bucket" >/dev/null 2>&1 || aws s3 mb "s3://$bucket"
aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
    BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true

account=$(aws sts get-caller-identity --query Account)
aws iam create-role --role-name "$name" --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}' >/dev/null 2>&1 || true
aws iam put-role-policy --role-name "$name" --policy-name "$name" --policy-document '{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": "arn:aws:s3:::'"$bucket"'"},
    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "Resource": "arn:aws:s3:::'"$bucket"'/*"},
    {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:RunInstances", "ec2:CreateTags", "ssm:GetParameters"], "Resource": "*"},
    {"Effect": "Allow", "Action": ["ec2:StartInstances", "ec2:StopInstances", "ec2:TerminateInstances"], "Resource": "*",
     "Condition": {"StringEquals": {"ec2:ResourceTag/ray-cluster-name": "symcere"}}},
    {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::'"$account"':role/'"$name"'"}]}'
aws iam create-instance-profile --instance-profile-name "$name" >/dev/null 2>&1 || true
aws iam add-role-to-instance-profile --instance-profile-name "$name" --role-name "$name" 2>/dev/null || true

vpc=$(aws ec2 describe-vpcs --filters Name=is-default,Values=true --query 'Vpcs[0].VpcId')
find_group() {
    aws ec2 describe-security-groups --filters "Name=group-name,Values=$name" "Name=vpc-id,Values=$vpc" \
        --query 'SecurityGroups[0].GroupId'
}
group=$(find_group)
if [ "$group" = None ]; then
    group=$(aws ec2 create-security-group --group-name "$name" --description "symcere's Ray cluster" --vpc-id "$vpc" --query GroupId)
fi
# The world first, should Ray have made the group by itself; then addresses of former days stay until you revoke them.
aws ec2 revoke-security-group-ingress --group-id "$group" --protocol tcp --port 22 --cidr 0.0.0.0/0 >/dev/null 2>&1 || true
aws ec2 authorize-security-group-ingress --group-id "$group" --protocol all --source-group "$group" >/dev/null 2>&1 || true
mine=$(python3 -c 'import urllib.request as u; print(u.urlopen("https://checkip.amazonaws.com", timeout=10).read().decode().strip())')
aws ec2 authorize-security-group-ingress --group-id "$group" --protocol tcp --port 22 --cidr "$mine/32" >/dev/null 2>&1 || true

sh "$here/secrets.sh"
sed -i.bak -e "s|s3://BUCKET/|s3://$bucket/|" -e "s|^\( *region:\) .*|\1 $region|" \
    -e "s|^\( *availability_zone:\) .*|\1 ${region}a,${region}b,${region}c|" "$here/../ray_cluster.yaml" && rm -f "$here/../ray_cluster.yaml.bak"
echo "Ready: ray up -y ray_cluster.yaml"
