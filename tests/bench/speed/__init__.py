"""FID beside the libraries that compute it: networks, decoding, the distance, whole processes."""
