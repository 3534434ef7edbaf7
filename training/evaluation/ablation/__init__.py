"""The ablation: what each part of the method adds, from equal budgets, over several seeds.

`python -m training.evaluation.ablation run` trains and scores all variants one after another on groups that are
encoded once; `report` makes the page. See `plan.VARIANTS` for what is compared.
"""
