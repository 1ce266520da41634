#!/bin/sh
# Starts one Redis server: a replica of the master that the sentinels name. Only when none of them answers, which is so
# when everything is new, does redis-0 begin as master.
set -eu
me="$HOSTNAME.redis-nodes"
master=""
for i in 0 1 2; do
  master=$(timeout 3 redis-cli -h "redis-sentinel-$i.redis-sentinels" -p 26379 --raw \
    sentinel get-master-addr-by-name fasttrack 2>/dev/null | head -n 1) || master=""
  [ -z "$master" ] || break
done
[ -n "$master" ] || master="redis-0.redis-nodes"

umask 077
{
  echo "port 6379"
  echo "dir /data"
  echo "appendonly yes"
  echo "requirepass \"$REDIS_PASSWORD\""
  echo "masterauth \"$REDIS_PASSWORD\""
  echo "replica-announce-ip $me"
  echo "maxmemory 1500mb"
  echo "maxmemory-policy volatile-lru"
  # A master that is cut off from its replicas would take writes that a failover throws away.
  echo "min-replicas-to-write 1"
  echo "min-replicas-max-lag 10"
  [ "$master" = "$me" ] || echo "replicaof $master 6379"
} > /run/redis/redis.conf
exec redis-server /run/redis/redis.conf
