function _edgeseg_completion
    _EDGESEG_COMPLETE=fish COMP_LINE=(commandline -cp | string collect) edgeseg 2>/dev/null
end
complete -c edgeseg -f -a '(_edgeseg_completion)'
