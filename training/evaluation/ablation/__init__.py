"""The ablation: what each part of the method adds, from equal budgets, over several seeds.

`runs` lists the runs: each is `training.train` with overrides of one configuration, then `training.evaluate`.
`results` collects their scores and curves in one file and compares them; `page` makes `docs/ablation.md` of it.
"""
