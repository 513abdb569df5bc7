"""Put gatepost into a mail server: what has to change, merged with what stands there."""
