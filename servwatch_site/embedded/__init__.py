"""What `make run` brings along itself: PostgreSQL, Mosquitto and the supervisor over all processes."""
