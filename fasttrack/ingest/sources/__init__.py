"""Sources into Kafka: files, REST APIs, databases, other topics; each resumes where it stopped."""
