"""The Ansible collection on real machines. Each rule of its playbooks has a test that fails without it.

In test_deploy.py:

- All machines have the artefact before the first one is switched: test_a_machine_that_cannot_take_the_files_…
- ``any_errors_fatal:`` a machine that cannot take it ends the play: the same
- The migration runs once, before: test_a_rolling_deploy_is_noticed_by_no_client
- ``serial:`` one machine after the other: the same
- The last task prints the release of each machine: the same, and when a machine fails test_a_failed_deploy_is_continued
- Machines that run the release are skipped: test_a_deploy_that_is_run_again_changes_nothing
- ``release_keep`` spares the release before: the same
- Never ``rescue:``, which would make a success of a failure: test_a_release_that_does_not_boot_…
- ``always:`` makes the machine ready for requests: the same
- A name means the same files on all machines: test_a_name_is_not_used_twice
- Releases that failed do not count: test_releases_that_failed_are_removed_and_do_not_count
- ``release_on_failure``: test_a_failed_deploy_is_continued (stop), test_machines_that_are_done_go_back_… (back)

With ``--long`` only:

- A machine that vanishes ends the play: test_faults.py, test_a_machine_that_crashes_…
- One of several that fails ends it: test_long.py, test_one_machine_of_several_that_fails_…
- What a machine runs is not removed, whether it was marked or not: the same
"""
