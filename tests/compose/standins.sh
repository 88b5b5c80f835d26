#!/bin/sh
# Base images where none can be pulled: one Debian from debootstrap, tagged with the official names.
# They prove our Dockerfile, wiring, environment and health checks, not the official images' entrypoints.
# Needs root, debootstrap, podman and buildah. Usage: standins.sh WORK_FOLDER
set -eu
work=$1
mkdir -p "$work"
if [ ! -d "$work/rootfs/usr" ]; then
  debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-venv,postgresql-15,redis-server,redis-tools,nginx-light,prometheus,procps \
    bookworm "$work/rootfs"
fi
root=$work/rootfs
# This machine's certificates, for pip, uv and npm inside the builds.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/etc/uv"
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$root/etc/pip.conf"
printf 'native-tls = true\n' > "$root/etc/uv/uv.toml"
printf 'cafile=/etc/ssl/certs/ca-certificates.crt\nupdate-notifier=false\n' > "$root/etc/npmrc"
printf 'cafile=/etc/ssl/certs/ca-certificates.crt\nupdate-notifier=false\n' > "$root/root/.npmrc"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

cat > "$root/usr/local/bin/postgres-entrypoint" <<'SH'
#!/bin/sh
# What the official image does with these variables, in short.
set -eu
data=/var/lib/postgresql/data
bin=/usr/lib/postgresql/15/bin
mkdir -p "$data" /var/run/postgresql && chown -R postgres "$data" /var/run/postgresql
if [ ! -s "$data/PG_VERSION" ]; then
  runuser -u postgres -- $bin/initdb -D "$data" --username="$POSTGRES_USER" --auth-host=scram-sha-256 --auth-local=trust \
    --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS >/dev/null
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  runuser -u postgres -- $bin/pg_ctl -D "$data" -o "-c listen_addresses=''" -w start >/dev/null
  runuser -u postgres -- $bin/createdb -U "$POSTGRES_USER" "$POSTGRES_DB" || true
  runuser -u postgres -- $bin/pg_ctl -D "$data" -m fast -w stop >/dev/null
fi
exec runuser -u postgres -- $bin/postgres -D "$data" -c listen_addresses='*'
SH
chmod +x "$root/usr/local/bin/postgres-entrypoint"
ln -sf /usr/lib/postgresql/15/bin/pg_isready "$root/usr/local/bin/pg_isready"
# nginx reads conf.d in the official image; Debian's has a default site besides.
rm -f "$root/etc/nginx/sites-enabled/default"

tar -C "$root" --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* -c . | podman import --quiet - localhost/debian-standin
tag() { # official name, then the lines of its Dockerfile
  name=$1; shift
  printf 'FROM localhost/debian-standin\n%s\n' "$@" > "$work/Dockerfile"
  buildah bud --format docker --runtime runc --network host --quiet -t "$name" -f "$work/Dockerfile" "$work" >/dev/null
}
tag docker.io/library/python:3.12-slim-bookworm 'CMD ["python3"]'
tag docker.io/library/postgres:17-bookworm 'ENTRYPOINT ["postgres-entrypoint"]'
tag docker.io/library/redis:7-bookworm 'CMD ["redis-server"]'
tag docker.io/library/nginx:1.28-bookworm 'CMD ["nginx", "-g", "daemon off;"]'
tag docker.io/prom/prometheus:v3.5.0 'ENTRYPOINT ["prometheus"]'
# Node from this machine.
mkdir -p "$work/node/usr/bin" "$work/node/usr/lib/node_modules"
cp "$(command -v node)" "$work/node/usr/bin/node"
cp -r "$(dirname "$(readlink -f "$(command -v npm)")")/.." "$work/node/usr/lib/node_modules/npm" 2>/dev/null || true
printf 'FROM localhost/debian-standin\nCOPY node/ /\nRUN ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/bin/npm && node --version && npm --version\n' > "$work/Dockerfile"
buildah bud --format docker --runtime runc --network host --quiet -t docker.io/library/node:22-bookworm-slim -f "$work/Dockerfile" "$work" >/dev/null
