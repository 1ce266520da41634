"""Each way in which a drain is disturbed, as a function of the rig, of how often, and of how many events."""
