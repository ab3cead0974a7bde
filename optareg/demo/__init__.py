"""The demonstration: one network trained by many methods, with pictures for a lecture.

It needs the extra: `pip install "optareg[demo]"`. From data to pictures:

- `data`: the digits, in three sets, with some wrong training labels;
- `methods`: the methods, each a penalty and an optimizer built with `optareg`;
- `train`: a vmapped sweep for each method, the choice on validation, then the test;
- `report`: the table and `results.json`;
- `curves`, `weights`, `trade_off`, `geometry`, `coefficients`: one picture each;
- `cli`: `python -m optareg`.
"""
