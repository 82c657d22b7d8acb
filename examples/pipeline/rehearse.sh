#!/bin/sh
# Deploy a release under load, as it is and with a mistake. Exits with 0 if no client noticed anything.
# Usage: rehearse.sh RELEASE.json     (as root, on a machine like the servers that is used for nothing else)
set -eu
here=$(dirname "$(realpath "$0")")
site=/srv/rehearsal

id rehearsal >/dev/null 2>&1 || useradd --system rehearsal
systemctl stop rehearsal.service rehearsal.socket 2>/dev/null || true
rm -rf "$site"
mkdir -p "$site/releases"
release=$("$here/unpack.py" "$1" "$site/releases")
cp -r "$release" "$site/releases/next"
cp -r "$release" "$site/releases/sabotaged"
echo 'raise RuntimeError("sabotage")' >>"$site/releases/sabotaged/app.py"
ln -s "$release" "$site/current"

PATH=$release/venv/bin:$PATH
flask-socketact units --name rehearsal --user rehearsal --directory "$site/current" --listen 127.0.0.1:8999 \
    --python "$site/current/venv/bin/python3" --install
systemctl start rehearsal.socket rehearsal.service
deploy="flask-socketact deploy rehearsal --release $site/releases"
flask-socketact rehearse --url http://127.0.0.1:8999/ --restarts 1 \
    --do "sh -c '$deploy/sabotaged; [ \$? = 1 ] || exit 1; $deploy/next'"
systemctl stop rehearsal.service rehearsal.socket
