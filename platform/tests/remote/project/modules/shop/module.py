from kernel import Module

module = Module(owner="team", depends_on={"prices"})
