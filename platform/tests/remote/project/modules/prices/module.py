from kernel import Module
from modules.prices.contract import Prices
from modules.prices.service import Answers

module = Module(owner="team", provides={Prices: Answers})
