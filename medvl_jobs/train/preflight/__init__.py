"""What can be known before the first step: everything that would end a training, slow it down or spoil it unseen."""
