"""`adytum demo`: the whole way of a key and a signature on one machine, and the proof that nothing secret leaked."""
