"""Point-in-time features: one definition, computed alike by the Spark job and for the online store."""
