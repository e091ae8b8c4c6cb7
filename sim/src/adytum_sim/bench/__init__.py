"""`adytum bench`: what this machine can do, beside what its bare cryptographic primitives can do in the same minute."""
