"""Where the jobs of a run are computed: in this process, or in several processes of this machine."""
