"""How good an avatar is: figures on raw held-out frames, baselines, the report.

metrics    formulas, on arrays alone
renders    the clip's frames drawn again, as spoken or under other sound; what is given to them
measures   image figures and landmarks of every frame
baselines  what doing nothing clever scores
mouth      how far the lips open, and whether they shut
signals    mouth against sound, silence and the true mouth; lids
pictures   the worst frames, slices through time
report     `report.html` and the printed table
evaluate   all of it, for one run: `eval.json`
"""
