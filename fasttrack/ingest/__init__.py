"""Events into Kafka, and from Kafka into the lake exactly once."""
