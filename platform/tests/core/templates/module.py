from kernel import Module

module = Module(owner="team")
