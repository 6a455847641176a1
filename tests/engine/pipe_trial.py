import os, sys, json, subprocess, socket
def main():
    import torch, functools
    torch.set_num_threads(1)
    from megas2s import dist
    from megas2s.engine.base import Setup
    from megas2s.engine.optim import AdamW
    from megas2s.models.config import ModelConfig
    from megas2s.models.freezing import freeze, frozen_names
    from megas2s.models.init import first_values
    from megas2s.models.parts import Span, construct_part, unit_count
    from megas2s.models.transformer import construct
    from megas2s.objectives.denoising import Denoising
    case=json.loads(os.environ['CASE'])
    stages=case['stages']; dp=case['dp']
    from megas2s.objectives.e2s2 import E2S2
    from megas2s.objectives.contrast import Contrasting
    from megas2s.objectives.mlm import MLM
    from megas2s.objectives.base import Shape
    from megas2s.data.loader import collate, Columns
    from megas2s.tokenizer.vocab import stand_in
    from megas2s.rng import generator
    import dataclasses
    kind=case.get('objective','denoising')
    obj={'denoising':Denoising(),'e2s2':E2S2(contrast=Contrasting(group=case.get('group',2),temperature=0.2)),'mlm':MLM()}[kind]
    V=64 if kind=='denoising' else 512
    cfg=ModelConfig(vocab_size=V,hidden_size=16,num_heads=2,ffn_size=24,max_positions=16,dropout=0.0,num_encoder_layers=3,num_decoder_layers=3,norm_position='pre',tying=case.get('tying','tied'))
    if case.get('t5'): cfg=dataclasses.replace(cfg,norm='rms',biases=False,embed_norm=False,positions='relative',scale_attention=False,relative_buckets=8,relative_max_distance=16,gated=True,tying='untied_head',decoder_start='pad')
    cfg=dataclasses.replace(cfg,max_positions=32)
    cfg=obj.shaped(cfg)
    units=unit_count(cfg)
    bounds=[round(i*units/stages) for i in range(stages+1)]
    spans=[Span(a,b) for a,b in zip(bounds,bounds[1:])]
    pats=case.get('freeze',[])
    def build(span=None):
        m=construct(cfg) if span is None else construct_part(cfg,span)
        freeze(m,pats); return m
    micro,mb=(4//dp,2) if case.get('group')==4 else (2,4//dp)
    setup=Setup(config=cfg,frozen=frozen_names(cfg,pats),build=build,initial=first_values(cfg,3),losses=obj,optimizer=AdamW(grad_clip=0.1,weight_decay=0.1),precision=case.get('precision','fp32'),micro_batch=micro,micro_batches=mb,languages=1,dropout_seed=lambda *a:0,spans=spans)
    if stages*dp>1:
        dist.lay_out(stages)
        from megas2s.engine.zero import join; join()
        from megas2s.engine.pipe import PipeEngine
        engine=PipeEngine(setup,'/tmp/wpipe/ds_configs/zero1.json',stages)
    else:
        from megas2s.engine.local import LocalEngine
        engine=LocalEngine(setup)
    out=[]
    place=dist.data_place()
    for step in range(6):
        g=torch.Generator().manual_seed(step)
        rows=torch.randint(5,64,(8,12),generator=g); dec=torch.randint(5,64,(8,9),generator=g); lab=torch.randint(5,64,(8,9),generator=g)
        lab[torch.rand(8,9,generator=g)<.3]=-100
        mask=(torch.arange(12)<torch.randint(4,13,(8,1),generator=g)).long()
        batches=[]
        shape=Shape(stand_in(512),24,24)
        if kind!='denoising':
            w=obj.window_size(shape); lens=obj.row_lengths(w,shape)
            ex=[{**obj.corrupt(generator(step,'t',i).integers(140,400,size=w),generator(step,'n',i),shape,i),'language':__import__('numpy').array(0),'sample':__import__('numpy').array(i)} for i in range(8)]
            for i in range(mb):
                a=(i*dp+place.rank)*micro
                batches.append(collate(ex[a:a+micro],Columns(source=lens.source,target=lens.target,full=lens.full,pad=1)))
        for i in range(mb) if kind=='denoising' else ():
            # sample order: micro-batch i, rank r
            s=slice((i*dp+place.rank)*micro,(i*dp+place.rank+1)*micro)
            b={'input_ids':rows[s],'decoder_input_ids':dec[s],'labels':lab[s],'language':torch.zeros(micro,dtype=torch.long)}
            if step%2: b['attention_mask']=mask[s]
            batches.append(b)
        r=engine.train_step(batches,step=step,lr=1e-2)
        s=dist.sum_over_ranks(r.sums)
        out.append((float(s[0,:,0].sum()/s[0,:,1].sum()), r.grad_norm))
    ev=dist.sum_over_ranks(engine.evaluate(batches)); out.append((float(ev[0,:,0].sum()/ev[0,:,1].sum()),0.0))
    pr=engine.predict(batches[0]); out.append((float(pr.sum()) if dp==1 else 0,0))
    vals={n:float(v.double().sum()) for n,v in engine.values()}
    moms={n:float(v.double().abs().sum()) for n,v in engine.moments()}
    if dist.place().rank==0: print('RESULT',json.dumps({'out':out,'vals':vals,'moms':moms,'weights':engine.part_weights(),'n':engine.trainable(),'c':engine.counters()}),flush=True)
def launch(case):
    n=case['stages']*case['dp']
    with socket.socket() as s: s.bind(('127.0.0.1',0)); port=s.getsockname()[1]
    ps=[]
    for r in range(n):
        env={**os.environ,'CASE':json.dumps(case),'RANK':str(r),'LOCAL_RANK':str(r),'WORLD_SIZE':str(n),'LOCAL_SIZE':str(n),'MASTER_ADDR':'127.0.0.1','MASTER_PORT':str(port),'OMP_NUM_THREADS':'1'}
        ps.append(subprocess.Popen([sys.executable,__file__],env=env,stdout=subprocess.PIPE,stderr=subprocess.STDOUT,text=True))
    res=None
    for r,p in enumerate(ps):
        try: o,_=p.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            for q in ps: q.kill()
            o,_=p.communicate(); print('TIMEOUT rank',r,o[-3000:]); continue
        if p.returncode: print('rank',r,'rc',p.returncode,o[-3000:])
        for line in o.splitlines():
            if line.startswith('RESULT'): res=json.loads(line[7:])
    return res
if __name__=='__main__':
    if 'CASE' in os.environ: main()
    else:
        import itertools
        for extra in json.loads(sys.argv[1]):
            ref=launch({'stages':1,'dp':1,**extra})
            for st,dp in json.loads(sys.argv[2]):
                got=launch({'stages':st,'dp':dp,**extra})
                if got is None: print(extra,st,dp,'FAILED'); continue
                d=max(max(abs(a-b)/max(1e-9,abs(a)) for a,b in zip(x,y)) for x,y in list(zip(ref['out'],got['out']))[:7])
                v=max(abs(ref['vals'][k]-got['vals'][k]) for k in ref['vals']); m=max(abs(ref['moms'][k]-got['moms'][k]) for k in ref['moms'])
                print(extra,st,dp,'loss/norm rel',f'{d:.1e}','vals',f'{v:.1e}','moms',f'{m:.1e}',ref['vals'].keys()==got['vals'].keys(),list(ref['moms'])==list(got['moms']),got['weights'],got['n']==ref['n'],got['c'],ref['out'][7],got['out'][7])
