"""`make bench`: what the gateway costs a call, beside nginx in the same rounds. No figure unless the books balance."""
