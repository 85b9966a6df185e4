//! What the user hands in, made safe: zip, `.py`, folder → `Source`.
