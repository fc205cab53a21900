"""Black-box learners: F_phi is one forward pass that reads the support set and answers the queries; phi is all weights.

A sequence reader is an embedding, a stack of layers that read one example after the other (or all at once), and a
linear head; the methods differ in their layers. A weight generator reads the support set and writes a network.
"""
