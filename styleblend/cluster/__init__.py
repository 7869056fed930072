"""Many machines: pieces of work, such as batches of pictures and trainings, spread over a Ray cluster.

The files are the list of what is done, as on one machine: Ray only carries work to machines. `work_list` and `nodes`
know no Ray, `remote` is what runs on a machine, `ray_workers` is the one that talks to Ray.
"""
