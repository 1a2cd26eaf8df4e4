"""Each stage against a model that is as simple as it can be said; hypothesis looks for what tells them apart."""
