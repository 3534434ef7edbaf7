"""Several processes, one per GPU, that edit together: started here and kept (`group`), or by a launcher (`edit`).

    caller                     worker 0                         workers 1, 2, ...
    Workers.run(job)   ->      runs the job, a generator;       follow its runs of the pipeline
      items, one by one  <-    reads, writes, reports
      closing it         ->    closes the job at its next item; all leave the run within one step

Nothing of a job stays in the caller's process: it needs neither torch nor a GPU.
"""
