"""Several results directories of one suite become one: `harness merge`.

    agreement   whether manifests are of the same suite, code, weights and images
    manifests   several manifests -> one
    cells       which directory gives which shard, and the copying of files as they are
    run         directories -> a directory

No record is changed, no image is attacked, and nothing that a suite names is executed.
"""
