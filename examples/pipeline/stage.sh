#!/bin/sh
# Bring a release to a server, and unpack it there. Nothing is restarted.
# Usage: stage.sh HOST RELEASE.json RELEASES     as in: stage.sh deploy@web1 dist/42.json /srv/app/releases
set -eu
host=$1 manifest=$2 releases=$3
folder=$(ssh "$host" mktemp -d)
scp -q "$manifest" "${manifest%.json}.tar.gz" "$host:$folder/"
status=0
ssh "$host" "sudo /usr/local/sbin/unpack-release $folder/$(basename "$manifest") $releases" || status=$?
ssh "$host" "rm -r $folder"
exit "$status"
