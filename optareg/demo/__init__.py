"""The demonstration: six ways to train one network, and the pictures of a lecture.

Needs the extra: `pip install "optareg[demo]"`. From data to pictures:

- `data`: the digits, split apart, some training labels wrong;
- `methods`: the six ways, each a penalty and an optimizer built with `optareg`;
- `train`: one vmapped sweep a method, the choice on validation, then the test;
- `report`: the table and `results.json`;
- `curves`, `weights`, `trade_off`, `geometry`, `coefficients`: one picture each;
- `cli`: `python -m optareg`.
"""
