"""Which likelihoods can end a decoder? One file each."""
