# fish completion for pipefill-cli
# Made by `go test ./cli -run Completion -update`.
complete -c pipefill-cli -n __fish_use_subcommand -l controller -x -d 'pipefillctld'
complete -c pipefill-cli -n __fish_use_subcommand -l version
complete -c pipefill-cli -n __fish_use_subcommand -a archive -d 'write the accounting to a file, and take it in again (operators)'
complete -c pipefill-cli -n '__fish_seen_subcommand_from archive' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from archive' -a 'dump load'
complete -c pipefill-cli -n __fish_use_subcommand -a audit -d 'list what operators ordered, when and why  audit (start=TIME) (end=TIME) (operators); today by default'
complete -c pipefill-cli -n '__fish_seen_subcommand_from audit' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from audit' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from audit' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from audit' -l parsable2
complete -c pipefill-cli -n '__fish_seen_subcommand_from audit' -a 'start= end='
complete -c pipefill-cli -n __fish_use_subcommand -a bubbles -d 'show the bubble cycle of a running main job, device by device'
complete -c pipefill-cli -n '__fish_seen_subcommand_from bubbles' -l cycle
complete -c pipefill-cli -n '__fish_seen_subcommand_from bubbles' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from bubbles' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from bubbles' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from bubbles' -l parsable2
complete -c pipefill-cli -n __fish_use_subcommand -a cancel -d 'cancel fill jobs, as scancel does'
complete -c pipefill-cli -n '__fish_seen_subcommand_from cancel' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from cancel' -l why
complete -c pipefill-cli -n __fish_use_subcommand -a config -d 'work with configuration files'
complete -c pipefill-cli -n '__fish_seen_subcommand_from config' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from config' -a 'check'
complete -c pipefill-cli -n __fish_use_subcommand -a doctor -d 'look at Slurm’s configuration and at pipefill’s daemons, and say what to mend; exit status 4 if something is bad'
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l config
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l node-config
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l parsable2
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l partition
complete -c pipefill-cli -n '__fish_seen_subcommand_from doctor' -l slurm-conf
complete -c pipefill-cli -n __fish_use_subcommand -a drain -d 'start no more fill jobs on the site, on nodes, or of accounts (operators); without arguments list what is drained'
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -l evict
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -l parsable2
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -l why
complete -c pipefill-cli -n '__fish_seen_subcommand_from drain' -a 'site node account'
complete -c pipefill-cli -n __fish_use_subcommand -a explain -d 'tell why fill jobs wait, and when they are expected to start'
complete -c pipefill-cli -n '__fish_seen_subcommand_from explain' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from explain' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from explain' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from explain' -l parsable2
complete -c pipefill-cli -n __fish_use_subcommand -a hold -d 'keep fill jobs from being started'
complete -c pipefill-cli -n '__fish_seen_subcommand_from hold' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from hold' -l why
complete -c pipefill-cli -n __fish_use_subcommand -a plan -d 'make the execution plan of fill jobs for a device’s bubble cycle, from files'
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l bubbles
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l explain
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l html
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l main-state
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l parsable2
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l profile
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l single
complete -c pipefill-cli -n '__fish_seen_subcommand_from plan' -l svg
complete -c pipefill-cli -n __fish_use_subcommand -a policy -d 'scheduling policies  policy list|check|explain|predictions'
complete -c pipefill-cli -n '__fish_seen_subcommand_from policy' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from policy' -a 'list check explain predictions'
complete -c pipefill-cli -n __fish_use_subcommand -a priority -d 'put a fill job before (N > 0) or behind (N < 0) its owner’s other jobs'
complete -c pipefill-cli -n '__fish_seen_subcommand_from priority' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from priority' -l why
complete -c pipefill-cli -n __fish_use_subcommand -a profile -d 'run a program of the fill SDK to measure its ops on this device, and write its fill profile'
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l batch-size
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l out
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l repeats
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l technique
complete -c pipefill-cli -n '__fish_seen_subcommand_from profile' -l warm-up
complete -c pipefill-cli -n __fish_use_subcommand -a queue -d 'list fill jobs, as squeue does; those that ended up to ten minutes ago too'
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l format
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l parsable2
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l states
complete -c pipefill-cli -n '__fish_seen_subcommand_from queue' -l user
complete -c pipefill-cli -n __fish_use_subcommand -a release -d 'undo hold'
complete -c pipefill-cli -n '__fish_seen_subcommand_from release' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from release' -l why
complete -c pipefill-cli -n __fish_use_subcommand -a report -d 'sum up usage  report cluster|user|account|job|main|node (start=TIME) (end=TIME) (format=LIST), as sreport does; today by default'
complete -c pipefill-cli -n '__fish_seen_subcommand_from report' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from report' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from report' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from report' -l parsable2
complete -c pipefill-cli -n '__fish_seen_subcommand_from report' -l time
complete -c pipefill-cli -n '__fish_seen_subcommand_from report' -a 'cluster user account job main node start= end= format='
complete -c pipefill-cli -n __fish_use_subcommand -a resume -d 'undo drain (operators)'
complete -c pipefill-cli -n '__fish_seen_subcommand_from resume' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from resume' -l why
complete -c pipefill-cli -n '__fish_seen_subcommand_from resume' -a 'site node account'
complete -c pipefill-cli -n __fish_use_subcommand -a simulate -d 'tell what filling would give a cluster, by running scheduler and planner in simulated time'
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l beyond
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l from-cluster
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l html
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l paper
complete -c pipefill-cli -n '__fish_seen_subcommand_from simulate' -l seed
complete -c pipefill-cli -n __fish_use_subcommand -a slots -d 'list the devices of running main jobs'
complete -c pipefill-cli -n '__fish_seen_subcommand_from slots' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from slots' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from slots' -l noheader
complete -c pipefill-cli -n '__fish_seen_subcommand_from slots' -l parsable2
complete -c pipefill-cli -n __fish_use_subcommand -a submit -d 'submit a batch script as a fill job  sbatch --hold into the fill partition'
complete -c pipefill-cli -n '__fish_seen_subcommand_from submit' -l help
complete -c pipefill-cli -n __fish_use_subcommand -a top -d 'watch devices, what fills them, and the queue; a plain list where the output is no terminal'
complete -c pipefill-cli -n '__fish_seen_subcommand_from top' -l batch
complete -c pipefill-cli -n '__fish_seen_subcommand_from top' -l delay
complete -c pipefill-cli -n '__fish_seen_subcommand_from top' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from top' -l iterations
complete -c pipefill-cli -n __fish_use_subcommand -a trace -d 'write the timeline of a main job, as it was recorded or from raw traces, for Perfetto (ui.perfetto.dev)'
complete -c pipefill-cli -n '__fish_seen_subcommand_from trace' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from trace' -l html
complete -c pipefill-cli -n '__fish_seen_subcommand_from trace' -l last
complete -c pipefill-cli -n '__fish_seen_subcommand_from trace' -l nodelist
complete -c pipefill-cli -n '__fish_seen_subcommand_from trace' -l output
complete -c pipefill-cli -n __fish_use_subcommand -a try -d 'run a main job and fill jobs on this machine, without Slurm, and report; root only'
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l alone
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l device
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l dir
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l fill
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l help
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l json
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l limit
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l main
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l mode
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l no-hooks
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l options
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l profile
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l set
complete -c pipefill-cli -n '__fish_seen_subcommand_from try' -l user
