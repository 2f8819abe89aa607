"""Checkpoints as they lie on a disk: what their files hold, checked before anything is built from them."""
