"""The local platform: real parts (Kafka, PostgreSQL, Redis, servers) as supervised processes of one home folder."""
