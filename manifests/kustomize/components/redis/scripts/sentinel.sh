#!/bin/sh
# Starts one sentinel. It keeps what it has learned in its configuration, which is therefore made only once.
set -eu
umask 077
file=/data/sentinel.conf
if [ ! -s "$file" ]; then
  {
    echo "port 26379"
    echo "dir /data"
    echo "sentinel resolve-hostnames yes"
    echo "sentinel announce-hostnames yes"
    echo "sentinel announce-ip $HOSTNAME.redis-sentinels"
    echo "sentinel monitor fasttrack redis-0.redis-nodes 6379 2"
    echo "sentinel down-after-milliseconds fasttrack 5000"
    echo "sentinel failover-timeout fasttrack 30000"
    echo "sentinel parallel-syncs fasttrack 1"
  } > "$file"
fi
# The password may be another one since the last start.
grep -v "^sentinel auth-pass " "$file" > "$file.new"
echo "sentinel auth-pass fasttrack $REDIS_PASSWORD" >> "$file.new"
mv "$file.new" "$file"
exec redis-server "$file" --sentinel
