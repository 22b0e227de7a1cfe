"""`kubectl gpuid ui`: a read-only page on this machine that shows the fleet live."""
