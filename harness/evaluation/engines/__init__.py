"""Where the jobs of a run are computed: in this process, in several processes of this machine, or on a Ray cluster."""
